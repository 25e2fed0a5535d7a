"""Changes of a model's vocabulary: tokens that a domain never uses are removed, terms of a domain are added."""
