"Refusals and whole files."
import os, subprocess, sys
import pytest
from segmenter.guards import UnknownName, atomic_folder, atomic_write, lookup, writable_folder

def test_a_name_that_is_there_is_never_compared():
    assert lookup('size', 'tiny', {'tiny': 0}) == 0

def test_the_message_of_an_unknown_name_is_not_quoted():
    with pytest.raises(UnknownName) as e: lookup('size', 'tny', {'tiny': 0, 'huge': 1})
    assert str(e.value) == "unknown size 'tny'; did you mean 'tiny'?"

@pytest.mark.parametrize('typed, meant', [('mask', 'mask_transformer'), ('vit_tinny', 'vit_tiny_patch16_384'), ('VIT-TINY-PATCH16-384', 'vit_tiny_patch16_384')])
def test_half_a_name_is_understood(typed, meant):
    with pytest.raises(UnknownName, match=f'did you mean .*{meant}'): lookup('part', typed, dict.fromkeys(['linear', 'mask_transformer', 'vit_tiny_patch16_384', 'deit_small']))

def test_the_old_file_stays_when_the_process_is_killed_while_writing(tmp_path):
    path = tmp_path/'checkpoint'
    path.write_text('old')
    code = ('import os, signal\nfrom segmenter.guards import atomic_write\n'
            f'with atomic_write({str(path)!r}, "w") as f:\n f.write("new")\n f.flush()\n os.kill(os.getpid(), signal.SIGKILL)')
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    assert path.read_text() == 'old'

def test_a_file_gets_the_permissions_of_an_ordinary_one(tmp_path):
    with atomic_write(tmp_path/'a', 'w') as f: f.write('x')
    (tmp_path/'b').write_text('x')
    assert (tmp_path/'a').stat().st_mode == (tmp_path/'b').stat().st_mode
    with atomic_folder(tmp_path/'c'): pass
    (tmp_path/'d').mkdir()
    assert (tmp_path/'c').stat().st_mode == (tmp_path/'d').stat().st_mode

@pytest.mark.parametrize('path', ['/proc/out', '/dev/null/out'])
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(path):
    with pytest.raises(ValueError, match='choose another output folder') as e: writable_folder(path)
    assert '\n' not in str(e.value)
