"The names of the authors' modules: `python -m segm.train` and its siblings; what they do is in `segmenter.authors`."
