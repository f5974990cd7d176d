"""The in-process broker: one worker, nothing stored elsewhere."""
