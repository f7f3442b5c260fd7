"""What depends on the processor: one module for each architecture."""
