"""Training of embedders, rerankers, sparse and late-interaction models with the trainers of sentence-transformers."""
