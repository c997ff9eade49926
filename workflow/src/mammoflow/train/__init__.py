"""Training and scoring. Importing this package loads no torch; its modules do."""
