"""What is done to pictures beside the networks: ordinary and AV1 pictures, loop filter, illumination."""
