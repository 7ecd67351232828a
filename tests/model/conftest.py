"""Folders of pipelines, made when a test first asks for them."""
import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """folders(name) -> (folder, pipeline of diffusers)."""
    from whole_pipelines import PIPELINES

    work = tmp_path_factory.mktemp("pipelines")
    made = {}

    def folder(name):
        if name not in made:
            made[name] = PIPELINES[name](work)
            made[name].set_progress_bar_config(disable=True)
            made[name].save_pretrained(work / name)
        return work / name, made[name]

    return folder
