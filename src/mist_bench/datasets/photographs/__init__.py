"""PASCAL+COCO from real photographs: found, read, filtered, cropped."""
