"""A loaded model behind HTTP, in the form of OpenAI's API, and a page to try it. Trains and scores nothing."""
