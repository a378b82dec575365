"""The front door for programs: the Amazon Rekognition API. AWS words live only here."""
