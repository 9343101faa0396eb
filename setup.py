"Packaging: every fact comes from `settings.ini`."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
facts = config['DEFAULT']
lines = lambda key: [line.strip() for line in facts[key].splitlines() if line.strip()]

# The authors' module names, `python -m segm.train` and its siblings: installed as a package of their own
segm = ['segm', *(f'segm.{name}' for name in find_packages(str(root/'segmenter'/'_authors')))]

if __name__ == '__main__': setup(
    name=facts['lib_name'], version=facts['version'], description=facts['description'],
    long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    keywords=facts['keywords'].split(), author=facts['author'], license='Apache-2.0',
    python_requires='>=' + facts['min_python'],
    packages=find_packages(include=['segmenter', 'segmenter.*'], exclude=['segmenter._authors*']) + segm,
    package_dir={'segm': 'segmenter/_authors'}, package_data={'segmenter': ['py.typed', 'weights/*']},
    install_requires=lines('requirements'),
    extras_require={'dev': lines('dev_requirements'), 'export': lines('export_requirements'), 'geo': lines('geo_requirements'), 'cityscapes': lines('cityscapes_requirements'), 'slurm': lines('slurm_requirements')},
    entry_points={'console_scripts': lines('console_scripts')},
    classifiers=['Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Image Recognition'])
