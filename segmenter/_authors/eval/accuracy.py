"`python -m segm.eval.accuracy`: see `segmenter.authors`."
from segmenter.authors import run

if __name__ == '__main__': raise SystemExit(run('segm.eval.accuracy'))
