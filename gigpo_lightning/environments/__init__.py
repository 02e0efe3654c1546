"""Text environments and their tasks."""
