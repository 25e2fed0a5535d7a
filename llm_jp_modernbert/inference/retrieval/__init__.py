"""Search with embedders, sparse and late-interaction models, BM25 and rerankers."""
