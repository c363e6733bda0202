"""What is done to pictures beside the networks: ordinary, AV1 and HEVC pictures, loop filter, illumination."""
