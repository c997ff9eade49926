"""What a configuration will cost: images, bytes, core-hours and GPU-hours, before anything is submitted."""

# What the rules ask for (workflow/rules/convert.smk; a test compares).
CONVERT_THREADS = 2
CONVERT_LIMIT_MINUTES = 120
