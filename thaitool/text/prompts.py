"""What is asked for each built-in task first, in Thai: by data, evaluation and inference. Builds no chat template."""

from __future__ import annotations

from thaitool.errors import InputError

PROMPTS = {
    "asr": "ถอดเสียงพูดนี้เป็นข้อความ",
    "ic": "ผู้พูดต้องการอะไร ตอบเป็นชื่อเจตนา",
    "ner": "หาชื่อเฉพาะในเสียงพูดนี้ ตอบเป็น JSON",
    "sr": "เรียบเรียงคำพูดนี้ใหม่เป็นภาษาเขียน",
    "qa": "ฟังคำสั่งนี้แล้วตอบเป็นข้อความภาษาไทย",
}


def task_prompt(task: str) -> str:
    """The instruction of a task of `records.TASKS`.

    Raises:
        InputError: there is no such task.
    """
    if task not in PROMPTS:
        raise InputError(f"A task must be one of {', '.join(PROMPTS)}, but is {task!r}.")
    return PROMPTS[task]
