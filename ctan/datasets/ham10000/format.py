"""The raw format of HAM10000: its folders and file names."""

IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images")
MASK_FOLDERS = ("HAM10000_segmentations_lesion_tschandl", "masks")
MASK_ENDING = "_segmentation.png"
