"""What a capture holds beside pictures, cameras, depth and points: masks, EXIF, colour profiles, names, lenses, other keys."""

SECTION_NAMES = {"META": "names, lenses and other keys", "MASK": "masks", "PHOT": "EXIF, XMP and colour profiles"}
"""What each section of a file is, for people."""
