"""Dataset distillation as a workflow of cached stages."""
