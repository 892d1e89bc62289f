"""What is checked of a composed config before any data is read."""
