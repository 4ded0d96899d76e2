"""What all tests share. That this file is here puts this folder on the path, so that `small` can be imported."""
