"""Names under which data sets keep the text, speaker, id and length of a recording. The first that is there is used.

They are those of LibriSpeech, Common Voice, FLEURS, GigaSpeech and MLS on the Hugging Face hub, and of Thai-SUP.
"""

TEXT = ("text", "transcription", "transcript", "sentence", "raw_transcription", "normalized_text")
SPEAKER = ("speaker", "speaker_id", "client_id")
ID = ("id", "data_id", "utt_id", "segment_id")
DURATION_S = ("duration", "duration_s", "audio_duration")
RATE_HZ = ("sampling_rate", "sample_rate")
