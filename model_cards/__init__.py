"""Model and dataset cards: builder, templates and finished cards."""
