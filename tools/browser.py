"""Find the browser that `make test-browser` drives, or install one: `python tools/browser.py` prints where it is.

Chromium or Chrome is taken where the machine has it. Else Debian's package is installed, where that is allowed, or playwright brings its own."""
import os, shutil, subprocess, sys

names = ['chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser']
mac = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'

def playwrights_own():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p: path = p.chromium.executable_path
    return path if os.path.exists(path) else None

def find_browser():
    "The path of Chromium or Chrome, or None"
    for path in [*map(shutil.which, names), mac]:
        if path and os.path.exists(path): return path
    return playwrights_own()

def install_browser():
    if shutil.which('apt-get') and os.getuid()==0:
        subprocess.run(['apt-get', 'update', '-q'], check=True)
        subprocess.run(['apt-get', 'install', '-q', '-y', '--no-install-recommends', 'chromium', 'fonts-liberation'], check=True, env={**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'})
    else: subprocess.run([sys.executable, '-m', 'playwright', 'install', 'chromium'], check=True)

if __name__ == '__main__':
    try:
        if not find_browser(): install_browser()
        if not find_browser(): raise OSError('none was found afterwards')
    except (OSError, subprocess.CalledProcessError) as e: sys.exit(f'miniai: no browser could be installed ({e}); install Chromium or Chrome and run the command again.')
    print(find_browser())
