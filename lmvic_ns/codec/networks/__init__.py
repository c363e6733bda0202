"""The networks of the practical codec and their exact entropy coding."""
