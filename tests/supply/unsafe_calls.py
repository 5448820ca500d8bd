"""Finds names in Python code that execute what a file contains, by reading the code alone."""

import ast

# Any mention counts, whether it is called there or passed on.
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads"),
    *("cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load"),
    *("marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle"),
    *("yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("yaml.UnsafeLoader", "yaml.FullLoader", "yaml.Loader"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("detectron2.config.LazyConfig.load", "detectron2.config.LazyConfig.load_rel"),
    *("os.system", "os.popen", "runpy.run_path", "importlib.util.spec_from_file_location"),
    *("eval", "exec", "compile", "__import__"),
}
# Safe with this argument, written out; in any other call, and passed on, not.
SAFE_WITH: dict[str, tuple[str, set[object]]] = {
    "torch.load": ("weights_only", {True}),
    "yaml.load": ("Loader", {"yaml.SafeLoader", "yaml.CSafeLoader"}),
    "yaml.load_all": ("Loader", {"yaml.SafeLoader", "yaml.CSafeLoader"}),
    # detectron2's own default is True: tags in a YAML file may then call anything.
    ".merge_from_file": ("allow_unsafe", {False}),
}
# Unsafe with this argument, unless it is written out as False.
UNSAFE_WITH = {
    "numpy.load": "allow_pickle",
    ".load_yaml_with_base": "allow_unsafe",
    "subprocess.run": "shell",
    "subprocess.call": "shell",
    "subprocess.check_call": "shell",
    "subprocess.check_output": "shell",
    "subprocess.Popen": "shell",
}


def find_unsafe(source: str) -> list[tuple[int, str]]:
    """Return the line number and the full name of each, in the order of the lines."""
    return sorted(set(_Finder().search(ast.parse(source))))


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.imported: dict[str, str] = {}
        self.found: list[tuple[int, str]] = []

    def search(self, tree: ast.AST) -> list[tuple[int, str]]:
        # Imports may stand anywhere, also below a function that uses them.
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    self.imported[alias.asname or name] = name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    if alias.name == "*":
                        self.found.append((node.lineno, f"from {node.module} import *"))
        self.visit(tree)
        return self.found

    def name_of(self, node: ast.expr) -> str:
        """``np.load`` is numpy.load; what is no imported name begins with a dot."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            name = f"{self.name_of(node.value)}.{node.attr}"
            method = f".{node.attr}"
            return method if method in SAFE_WITH or method in UNSAFE_WITH else name
        return ""

    def visit_Call(self, node: ast.Call) -> None:
        name = self.name_of(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in SAFE_WITH:
            argument, safe = SAFE_WITH[name]
            if argument not in given or self.value_of(given[argument]) not in safe:
                self.found.append((node.lineno, name))
            # The name itself is fine here, but what it is the method of, and the arguments...
            children = [*node.args, *(k.value for k in node.keywords)]
            if isinstance(node.func, ast.Attribute):
                children.append(node.func.value)
            for child in children:
                self.visit(child)
            return
        if name in UNSAFE_WITH:
            argument = UNSAFE_WITH[name]
            value = given.get(argument)
            # By **kwargs anything may be given.
            if None in given or (value is not None and self.value_of(value) is not False):
                self.found.append((node.lineno, name))
        self.generic_visit(node)

    def value_of(self, node: ast.expr) -> object:
        return node.value if isinstance(node, ast.Constant) else self.name_of(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.mention(node)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.mention(node)

    def mention(self, node: ast.Attribute | ast.Name) -> None:
        name = self.name_of(node)
        if name in FORBIDDEN or name in SAFE_WITH:
            self.found.append((node.lineno, name))
