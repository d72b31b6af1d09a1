"""What is said: the nouns of the system as plain typed data. Imports nothing of ours.

errors      what can go wrong, as data: what, where, remedy
ids         identifiers and their patterns
instants    nanoseconds inside, ISO-8601 text outside
records     Alert, Target, PlanItem, FrameRef, Candidate ...: what events are made of
events      facts in the past tense; the registry from type name to class
commands    wishes that can be refused; the registry from module and verb to class
states      closed sets: night states, verdicts, custody
frames      the header contract and the names of frame files
"""
