"""One tab of a real browser on the tutorial's part of the first page, spoken of as a person sees it."""

import re

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Request, expect


class Exercise:
    """One of the page's cards: its connection's state, its log, its buttons and fields."""

    def __init__(self, card: Locator) -> None:
        self.card = card
        self.state = card.locator(".state")
        self.refusal = card.locator(".refusal")
        self.message = self.field("Message")
        self.messages = card.locator(".log li")

    def field(self, label: str) -> Locator:
        """A field of the card by what its label says."""
        return self.card.get_by_label(re.compile(rf"^{label}( optional)?$"))

    def press(self, button: str) -> None:
        """Press a button of the card by what it says."""
        self.card.get_by_role("button", name=button, exact=True).click()

    def connect(self) -> None:
        """Connect, and wait until the endpoint is open."""
        self.press("Connect")
        self.expect_state("Open")

    def send(self, message: str) -> None:
        """Type a message and send it."""
        self.message.fill(message)
        self.press("Send")

    def expect_state(self, sentence: str) -> None:
        """Wait until the card says `sentence` of its connection."""
        expect(self.state).to_have_text(sentence)

    def expect_refusal(self, *parts: str) -> None:
        """Wait until the card says that it was refused, and everything of `parts` about why."""
        self.expect_state("Refused")
        expect(self.refusal).to_be_visible()
        for part in parts:
            expect(self.refusal).to_contain_text(part)

    def expect_messages(self, *messages: str) -> None:
        """Wait until the log holds exactly `messages`, to the letter."""
        expect(self.messages).to_have_count(len(messages))
        assert self.messages.all_text_contents() == list(messages)


class Tab:
    """A tab that notes everything that fails on its page and every address it asks for."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.goto(f"{address}/#tutorial")
        self.access_token = self.page.get_by_label("Access token")
        self.echo = Exercise(self.page.get_by_role("region", name="Echo"))
        self.items = Exercise(self.page.get_by_role("region", name="Items"))
        self.chat = Exercise(self.page.get_by_role("region", name="Chat"))

    @property
    def client_id(self) -> str:
        """This tab's number in the chat."""
        return self.page.locator("#client-id").inner_text()

    def use_token(self, token: str) -> None:
        """Fill in the access token, as for a service outside developer mode."""
        self.access_token.fill(token)
        self.page.get_by_role("button", name="Use token").click()

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)
