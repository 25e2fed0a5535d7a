"""Fine-tuning: one module per type of task, the trainer, and the command."""
