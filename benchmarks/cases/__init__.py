"""One module per benchmark; each has a function `cases` that yields the cases of its command."""
