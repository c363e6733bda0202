"""Small helpers of every room: files written whole, pictures opened, processes ended cleanly, compiled loops."""
