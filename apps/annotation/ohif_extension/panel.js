// The panel: a reader's case, the models, Submit and Skip, drawn from the state of `work`.
import { takesPoints } from './models.js';

const STYLE = `
  .overread { display: flex; flex-direction: column; gap: 12px; height: 100%; overflow: auto; padding: 12px;
    color: #e6e6f0; font: 14px/1.45 Inter, system-ui, sans-serif; }
  .overread h2 { font-size: 15px; font-weight: 600; margin: 0; }
  .overread h3 { font-size: 12px; font-weight: 600; margin: 0 0 6px; color: #9fb3d9; }
  .overread p { margin: 0; }
  .overread section { display: flex; flex-direction: column; gap: 6px; }
  .overread .overread-row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
  .overread button { background: #1b3a6b; color: #fff; border: 0; border-radius: 4px; padding: 6px 12px; cursor: pointer; }
  .overread button:hover:not(:disabled) { background: #28539a; }
  .overread button:focus-visible, .overread input:focus-visible, .overread select:focus-visible { outline: 2px solid #5acce6; }
  .overread button:disabled { opacity: .45; cursor: default; }
  .overread button.overread-main { background: #0b7d5b; font-weight: 600; }
  .overread button[aria-pressed='true'] { outline: 2px solid #5acce6; }
  .overread input, .overread select { background: #0c1a33; color: #fff; border: 1px solid #33508a; border-radius: 4px; padding: 5px 8px; width: 100%; }
  .overread .overread-swatch { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
  .overread [role='status'] { min-height: 1.4em; }
  .overread .overread-wrong { color: #ffb3a7; }
  .overread small { color: #9fb3d9; }
`;

export class Panel {
  constructor(work) {
    this.work = work;
    this.root = make('div', { className: 'overread' });
    this._status = make('p', { role: 'status', 'aria-live': 'polite' });
    this._head = make('div', { style: 'display: contents' });
    this._parts = make('div', { style: 'display: contents' });
    this.root.append(make('style', {}, STYLE), this._head, this._status, this._parts);
    this.draw();
  }

  draw() {
    const { state } = this.work;
    this._status.textContent = state.running ?? state.words;
    this._status.className = state.wrong && !state.running ? 'overread-wrong' : '';
    const drawn = JSON.stringify({ ...state, words: '', running: Boolean(state.running), answers: 0, undo: this.work.canUndo });
    if (drawn !== this._drawn) {
      this._drawn = drawn; // what somebody types in stays under his hands while a model works
      this._head.replaceChildren(this._heading());
      this._parts.replaceChildren(...this._sections());
    }
  }

  _sections() {
    const { told, choices } = this.work.state;
    if (!told) {
      return [...choices.map(one => this._choice(one)), this._button('Next case', () => this.work.next())];
    }
    return [this._models(told), ...this._questions(told), this._end(told)];
  }

  _heading() {
    const { told } = this.work.state;
    if (!told) {
      return make('h2', {}, 'Overread');
    }
    const structures = told.structures.map(({ title, color }) =>
      make('div', {}, make('span', { className: 'overread-swatch', style: `background: ${color}` }), title)
    );
    const notes = [told.chosen, ...told.notes].filter(Boolean).map(note => make('small', {}, note));
    if (!told.yours) {
      notes.push(make('small', {}, 'You have no seat on this case, so nothing is saved here.'));
    }
    return make('section', { 'aria-label': 'Case' }, make('h2', {}, told.title), make('small', {}, told.case), ...structures, ...notes);
  }

  _models(told) {
    const { models, running } = this.work.state;
    const busy = Boolean(running);
    const automatic = models.filter(model => !takesPoints(model));
    const interactive = models.filter(takesPoints);
    const section = make('section', { 'aria-label': 'Models' }, make('h3', {}, 'Models'));
    if (!models.length) {
      section.append(make('small', {}, 'No model is offered for this case.'));
    }
    for (const model of automatic) {
      section.append(this._button(`Run ${model.name}`, () => this.work.run(model), { disabled: busy, title: model.description }));
    }
    if (interactive.length) {
      section.append(...this._marks(told));
    }
    const undo = this.work.canUndo ? [this._button('Undo the model', () => this.work.undo(), { disabled: busy })] : [];
    const stop = busy ? [this._button('Stop', () => this.work.cancel())] : [];
    section.append(make('div', { className: 'overread-row' }, ...stop, ...undo));
    return section;
  }

  // What the reader shows a model that takes points: choose what, then click or draw in the image.
  _marks(told) {
    const { picking, marks } = this.work.state;
    const pick = (name, title, boxed) => {
      const chosen = picking?.name === name && picking.boxed === boxed;
      return this._button(title, () => this.work.pick(name, boxed), { 'aria-pressed': String(chosen) });
    };
    const group = (words, names, boxed) => [
      make('small', {}, words),
      make(
        'div',
        { className: 'overread-row', role: 'group', 'aria-label': words },
        ...names.map(([name, title]) => pick(name, title, boxed))
      ),
    ];
    const names = told.structures.map(({ name, title }) => [name, title]);
    return [
      ...group('Click into', [...names, ['background', 'Background']], false),
      ...group('Draw a box round', names, true),
      this._button(`Clear points and boxes (${marks})`, () => this.work.clearPoints(), { disabled: !marks }),
    ];
  }

  _questions(told) {
    if (!told.questions.length) {
      return [];
    }
    const fields = told.questions.map(question => {
      const field = this._field(question);
      field.addEventListener('change', () => this.work.answer(question.name, answerOf(question, field.value)));
      return make('label', {}, question.title + (question.required ? ' *' : ''), field);
    });
    return [make('section', { 'aria-label': 'Questions' }, make('h3', {}, 'Questions'), ...fields)];
  }

  _field(question) {
    const given = this.work.state.answers[question.name];
    const value = given === undefined || given === null ? '' : String(given);
    if (question.kind === 'choice' || question.kind === 'boolean') {
      const options = question.kind === 'choice' ? question.options.map(o => [o, o]) : [['true', 'yes'], ['false', 'no']];
      const all = [['', '–'], ...options];
      return make('select', {}, ...all.map(([v, words]) => make('option', { value: v, selected: v === value }, words)));
    }
    const kind = question.kind === 'integer' ? { type: 'number', min: question.min, max: question.max } : { maxLength: question.max_characters };
    return make('input', { ...kind, value });
  }

  _end(told) {
    const { running, saved, blocked } = this.work.state;
    const mayNot = Boolean(running) || blocked || !told.yours;
    const reason = make('input', { placeholder: 'Why it cannot be read', 'aria-label': 'Reason', maxLength: 1000 });
    const skip = this._button('Skip this case', () => reason.value.trim() ? this.work.skip(reason.value.trim()) : reason.focus());
    return make(
      'section',
      { 'aria-label': 'Finish' },
      make(
        'div',
        { className: 'overread-row' },
        this._button('Submit', () => this.work.submit(), { className: 'overread-main', disabled: mayNot }),
        this._button('Next case', () => this.work.next()),
        this._button('Start again', () => this.work.startAgain(), { disabled: Boolean(running) })
      ),
      ...(told.yours && !saved ? [make('div', { className: 'overread-row' }, reason, skip)] : [])
    );
  }

  _choice(one) {
    return this._button(one.title, () => this.work.open(one), { title: one.case });
  }

  _button(words, action, attributes = {}) {
    const button = make('button', { type: 'button', ...attributes }, words);
    button.addEventListener('click', action);
    return button;
  }
}

function answerOf(question, text) {
  if (text === '') {
    return null;
  }
  return question.kind === 'integer' ? Number(text) : question.kind === 'boolean' ? text === 'true' : text;
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('aria-') || name === 'role' || name === 'style') {
      node.setAttribute(name, value);
    } else {
      node[name] = value;
    }
  }
  node.append(...children);
  return node;
}
