"""The twenty classes of PASCAL VOC by number, as PASCAL+COCO has them (Sec. 5.2)."""

# in the official code's order (datasets/pascal.py), which is the alphabet's; 0 is no object
VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
