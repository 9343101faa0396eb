"What the tests of the book share: one run of it, and its table at the end."
import sys
import pytest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT/'docs'))
import reading

TABLE = pytest.StashKey()

@pytest.fixture(scope='session')
def run_of_the_book(request):
    "`nbdev-test` on the whole book, one chapter at a time; its report and the seconds of each chapter."
    done, seconds = reading.run_book()
    request.config.stash[TABLE] = seconds
    return done, seconds

def pytest_sessionfinish(session):
    "A worker that ran the book hands the seconds to the process that prints."
    if TABLE in session.config.stash and hasattr(session.config, 'workeroutput'): session.config.workeroutput['book'] = session.config.stash[TABLE]

@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if 'book' in getattr(node, 'workeroutput', {}): node.config.stash[TABLE] = node.workeroutput['book']

def pytest_terminal_summary(terminalreporter, config):
    "How the book reads, once it has been run."
    if TABLE not in config.stash: return
    terminalreporter.section('how the book reads (python docs/reading.py)')
    terminalreporter.write_line(reading.table(reading.read_book(seconds=config.stash[TABLE]), aims=False))
