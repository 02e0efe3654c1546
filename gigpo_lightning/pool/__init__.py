"""Slots that environments live in, in this process or in workers, and how long they may take."""
