"""A microscope that is not there: abTEM specimens behind an imperfect column, or a recording played back."""
