"""How a program of each language is run, and what it needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from stack import environment, run

PGJDBC = "42.7.14"
PGX = "v5.12.0"
NODE_PACKAGES = ["pg@8.23.1", "@types/pg@8.23.1", "@types/node@20.19.43", "typescript@5.9.3"]
MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.10.0:copy"

INSTALLING_SECONDS = 300
COMPILING_SECONDS = 300
RUNNING_SECONDS = 60


class Language:
    """One language: `needs` are the commands that must be on the machine."""

    needs = ()
    # The name of the program's file.
    file = None

    def __init__(self, tools):
        self.tools = tools

    def missing(self):
        return [command for command in self.needs if shutil.which(command) is None]

    def install(self):
        """What the program needs besides the language, below the folder of the tools."""

    def compile(self, folder):
        """Compiles the program in `folder`; returns the command that runs it."""
        raise NotImplementedError

    def run(self, command, folder, url):
        run(command, RUNNING_SECONDS, cwd=folder, env=environment(DATABASE_URL=url))

    def installed(self, name, install):
        """A folder of the tools that `install` fills. What is not finished has another name."""
        folder = self.tools / name
        if not folder.exists():
            unfinished = self.tools / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            install(unfinished)
            unfinished.rename(folder)
        return folder


class Python(Language):
    file = "shipping.py"

    def compile(self, folder):
        return [sys.executable, self.file]


class Java(Language):
    needs = ("java", "mvn")
    file = "Shipping.java"

    def install(self):
        def copy(folder):
            artifact = f"org.postgresql:postgresql:{PGJDBC}"
            maven = ["mvn", "--quiet", "--batch-mode", MAVEN_COPY]
            options = [f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
            run(maven + options, INSTALLING_SECONDS)

        self.driver = self.installed(f"pgjdbc-{PGJDBC}", copy)

    def compile(self, folder):
        # The launcher compiles the one file itself.
        return ["java", "-cp", f"{self.driver}/*", self.file]


class Go(Language):
    needs = ("go",)
    file = "main.go"

    def install(self):
        def get(folder):
            variables = self.variables(folder)
            for arguments in (["mod", "init", "shipping"], ["get", f"github.com/jackc/pgx/v5@{PGX}"]):
                run(["go", *arguments], INSTALLING_SECONDS, cwd=folder, env=variables)

        self.module = self.installed(f"pgx-{PGX}", get)

    def compile(self, folder):
        for name in ("go.mod", "go.sum"):
            shutil.copy(self.module / name, folder)
        build = ["go", "build", "-o", "shipping", "."]
        run(build, COMPILING_SECONDS, cwd=folder, env=self.variables(self.module))
        return ["./shipping"]

    def variables(self, module):
        """Modules and what is compiled stay below the folder of the tools, and can be removed."""
        go = {name: value for name, value in os.environ.items() if name.startswith("GO")}
        return environment(**go) | {
            "GOMODCACHE": f"{module}/modules",
            "GOCACHE": f"{self.tools}/go-build",
            "GOFLAGS": "-modcacherw",
            "GOTOOLCHAIN": "local",
        }


class TypeScript(Language):
    needs = ("node", "npm")
    file = "shipping.ts"

    def install(self):
        def npm_install(folder):
            options = ["--no-audit", "--no-fund", "--save-exact", "--prefix", folder]
            run(["npm", "install", *options, *NODE_PACKAGES], INSTALLING_SECONDS)

        names = "-".join(package.rsplit("@", 1)[1] for package in NODE_PACKAGES)
        self.packages = self.installed(f"node-{names}", npm_install)

    def compile(self, folder):
        (folder / "package.json").write_text('{"type": "module"}\n')
        (folder / "node_modules").symlink_to(self.packages / "node_modules")
        options = ["--strict", "--target", "es2022", "--module", "nodenext", "--types", "node"]
        compiler = ["node", "node_modules/typescript/bin/tsc", *options, self.file]
        run(compiler, COMPILING_SECONDS, cwd=folder)
        return ["node", "shipping.js"]


# By the names of the blocks in the page.
LANGUAGES = {"python": Python, "java": Java, "go": Go, "ts": TypeScript}
