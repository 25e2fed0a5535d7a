"""The user's data: files, folders or Hub datasets → checked examples of a retrieval training."""
