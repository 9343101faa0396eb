"`python -m segm.eval.miou`: see `segmenter.authors`."
from segmenter.authors import run

if __name__ == '__main__': raise SystemExit(run('segm.eval.miou'))
