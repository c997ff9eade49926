"""From the bytes of one image file to a PNG: decode, grey scale, breast box, geometry, encode. No torch in here."""
