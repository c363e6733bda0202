"""Reference trees: which view is predicted from which, and the distances between views."""
