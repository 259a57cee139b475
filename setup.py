"Everything setuptools needs is in settings.ini; this only hands it over."
from configparser import ConfigParser
from pathlib import Path
import re, sys
from setuptools import setup

root = Path(__file__).parent
config = ConfigParser()
config.read(root/'settings.ini', encoding='utf-8')
s = config['DEFAULT']

init = (root/s['lib_path']/'__init__.py').read_text(encoding='utf-8')
if re.findall(r'^__version__ = "(.*)"$', init, re.M) != [s['version']]:
    sys.exit(f"{s['lib_path']}/__init__.py must say __version__ = \"{s['version']}\", the version in settings.ini.")

setup(
    name=s['lib_name'], version=s['version'], description=s['description'], keywords=s['keywords'].split(', '),
    license=s['license'], author=s['author'],
    long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    url=s['git_url'], project_urls=dict(Repository=s['git_url'], Documentation=s['doc_host']+s['doc_baseurl']+'/'),
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers', 'Intended Audience :: Education',
        'Natural Language :: English', 'Programming Language :: Python :: 3', 'Programming Language :: Python :: 3 :: Only'],
    python_requires='>='+s['min_python'],
    install_requires=s['requirements'].split(),
    extras_require={x: s[f'{x}_requirements'].split() for x in ('dev', 'nbdev2')},
    packages=[s['lib_path']],
    package_data={s['lib_path']: ['models/**/*', 'data/**/*', 'measured/*']},
    entry_points=dict(console_scripts=[s['console_scripts']], nbdev=[f"{s['lib_path']}={s['lib_path']}._modidx:d"]),
    zip_safe=False)
