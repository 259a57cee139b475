"What every test starts from."
import pytest, torch

@pytest.fixture(autouse=True)
def exact_small_numbers():
    "Trainings round the smallest numbers to zero, for speed; tests that draw random numbers need them"
    torch.set_flush_denormal(False)
