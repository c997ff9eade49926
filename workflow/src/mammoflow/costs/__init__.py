"""What a configuration will cost: images, bytes, core-hours and GPU-hours, before anything is submitted."""
