"""The OpenID provider of `tests/node/idp.mjs` as a child process, and the person in front of its pages."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import urljoin

import httpx2
import pytest
from conftest import free_port

NODE = Path(__file__).parent / "node"
_FORM = re.compile(r'<form[^>]*action="(?P<action>[^"]+)"[^>]*>(?P<body>.*?)</form>', re.DOTALL)
_INPUT = re.compile(r"<input(?P<attributes>[^>]*)>")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


class IdentityProvider:
    def __init__(self) -> None:
        if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
            pytest.skip("needs Node.js and `npm ci --prefix tests/node`")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            ["node", "idp.mjs", str(port)], cwd=NODE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "the provider ended"
            assert time.monotonic() < deadline, "the provider did not start"
            try:
                if httpx2.get(f"{self.url}/.well-known/openid-configuration").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def agree(self, address: str, login: str) -> None:
        """Open the verification page, compare the code, log in, consent: every form that comes, as a browser would."""
        answers = {"login": login, "password": "anything"}
        with httpx2.Client(follow_redirects=True) as browser:
            page = browser.get(address)
            for _ in range(8):
                form = _FORM.search(page.text)
                if form is None:
                    assert "Sign-in Success" in page.text, page.text[-2000:]
                    return
                fields = {}
                for found in _INPUT.finditer(form["body"]):
                    attributes = dict(_ATTRIBUTE.findall(found["attributes"]))
                    if name := attributes.get("name"):
                        fields[name] = answers.get(name, attributes.get("value", ""))
                page = browser.post(urljoin(str(page.url), form["action"]), data=fields)
        raise AssertionError(f"the provider never came to an end: {page.text[-2000:]}")

    def refuse(self, address: str) -> None:
        """Press `[ Abort ]` on the page that asks to compare the code."""
        with httpx2.Client(follow_redirects=True) as browser:
            page = browser.get(address)
            form = _FORM.search(page.text)
            assert form is not None
            fields = {}
            for found in _INPUT.finditer(form["body"]):
                attributes = dict(_ATTRIBUTE.findall(found["attributes"]))
                fields[attributes["name"]] = attributes.get("value", "")
            page = browser.post(urljoin(str(page.url), form["action"]), data=fields)
            fields = dict(_confirmation(page.text))
            fields.pop("confirm", None)
            browser.post(urljoin(str(page.url), "/device"), data={**fields, "abort": "yes"})

    def client_credentials(self) -> str:
        answer = httpx2.post(
            f"{self.url}/token",
            data={"grant_type": "client_credentials", "resource": "urn:tagwarden:registry"},
            auth=("nightly", "a-secret-of-the-tests"),
        )
        return str(answer.json()["access_token"])


def _confirmation(page: str) -> list[tuple[str, str]]:
    return [
        (attributes["name"], attributes.get("value", ""))
        for attributes in (dict(_ATTRIBUTE.findall(found["attributes"])) for found in _INPUT.finditer(page))
        if "name" in attributes
    ]
