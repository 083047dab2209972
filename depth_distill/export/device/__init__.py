"""What a device or tool chain said: its outputs read, and what corrects them on the host."""
