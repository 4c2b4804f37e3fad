"""Text to tokens, tokens to text, conversations to text."""

from stepahead.tokenizer.chat_template import ChatTemplate
from stepahead.tokenizer.detokenizer import Detokenizer
from stepahead.tokenizer.reasoning import split_reasoning
from stepahead.tokenizer.template_meter import TemplateLimits
from stepahead.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "TemplateLimits", "Tokenizer", "split_reasoning"]
