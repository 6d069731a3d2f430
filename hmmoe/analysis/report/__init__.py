"""Many run folders to one table that can be believed, and its pictures."""
