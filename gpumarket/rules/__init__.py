"""The market's arithmetic and vocabulary: pure, standard library only, equal to what the contracts compute."""
