"""Cards of models and datasets: what makes them, their templates, and the finished ones."""
