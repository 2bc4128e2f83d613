"""The prompt of a public model: clips and question in the user's one turn, as the model's own processor writes them.

Guarantees
- token ids are those of the whole prompt cut in pieces: words do not change where pieces meet
- what a user types never turns into a control token of the model
"""

from collections.abc import Callable
from typing import Any

from common.errors import StepDiffError
from heads.data.chat import Chat, ChatPieces, space_behind

IMAGE = "@@image@@"  # a token of the tokenizer here alone: what stands around it is cut as around the model's own
_QUESTION = "@@question@@"
TURN_ENDS = "<end_of_utterance>"  # of the IDEFICS models; others end with the end of the text


class ImageChat(Chat):
    """show: the system prompt with its {video} marks -> the same with IMAGE for every frame, and what is around it."""

    def __init__(self, tokenizer: Any, show: Callable[[str], str], begins: bool) -> None:
        """begins: whether the prompt begins with what the tokenizer sets before every text."""
        super().__init__(tokenizer)
        self.show = show
        tokenizer.add_tokens([IMAGE], special_tokens=True)
        self.image = tokenizer.convert_tokens_to_ids(IMAGE)
        turn = [{"type": "text", "text": _QUESTION}]
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
        )
        self.before, found, self.after = written.partition(_QUESTION)
        if not found or str(turn) in written:
            raise StepDiffError(
                f"{tokenizer.name_or_path}: its chat template drops a text, or takes no images; use another checkpoint"
            )
        written_out = tokenizer.bos_token is not None and self.before.startswith(tokenizer.bos_token)
        self.begins = begins and not written_out

    def pieces(self, system: str) -> ChatPieces:
        shown = self.tokenizer(self.before + self.show(system), add_special_tokens=self.begins)["input_ids"]
        around: list[list[int]] = [[]]
        for token in shown:
            if token == self.image:
                around.append([])
            else:
                around[-1].append(token)
        end = self.tokenizer.get_vocab().get(TURN_ENDS, self.tokenizer.eos_token_id)
        to_answer = self.control_ids(self.after)
        return ChatPieces(tuple(map(tuple, around)), to_answer, (end,), " ", space_behind(self.after))
