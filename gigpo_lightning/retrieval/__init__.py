"""Finding texts by words: what shops and question answering search with."""
