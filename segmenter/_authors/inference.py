"`python -m segm.inference`: see `segmenter.authors`."
from segmenter.authors import run

if __name__ == '__main__': raise SystemExit(run('segm.inference'))
